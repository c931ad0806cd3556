"""Still pictures on request, over a data channel."""
