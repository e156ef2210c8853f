"""Actions in a video that has no end yet: a camera, an address, a file that grows."""
