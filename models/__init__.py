"""The generators: networks, data, training and export. The only room that imports torch."""
