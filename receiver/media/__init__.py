"""Video files: the only place where they are opened, and where they are written."""
