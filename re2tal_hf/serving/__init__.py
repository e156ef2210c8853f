"""A model as a service over HTTP: `re2tal serve`. Needs the extra `[serve]`."""
