"""A page in the browser with the runs of a folder: curves, pictures, and buttons for live ones."""
