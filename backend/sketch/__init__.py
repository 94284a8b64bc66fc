"""The world that the sketch draws: a prompt becomes a Scene, a Scene becomes pictures. NumPy and OpenCV only."""
