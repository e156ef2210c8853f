"""What the terms of pretrained weights mean for a model trained from them; the trainer and the publisher ask."""
