"""The page on which actions are marked, in the videos of a folder."""
