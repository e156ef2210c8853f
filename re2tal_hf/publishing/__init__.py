"""What goes to the Hub: models, data sets, Spaces, graphs, their cards; staged in a folder, sent as one commit."""
