"""Annotations in the files of other tools, one file a format."""
