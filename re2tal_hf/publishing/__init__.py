"""Publishing on the Hub: a run or a Space, staged in a folder, then uploaded as one commit."""
