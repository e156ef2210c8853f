"""The demo page: which actions happen in a video, and from when to when. Needs the extra `[app]`."""
