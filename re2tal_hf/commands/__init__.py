"""The commands: `re2tal NAME ...`, or `python -m re2tal_hf.commands.NAME ...`; a file is a command."""
