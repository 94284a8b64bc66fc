"""An illustrated world drawn by rules: a prompt becomes a Scene, a Scene becomes pictures. NumPy and OpenCV only."""
