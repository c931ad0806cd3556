"""Networks, training data, training and export. The only folder that imports torch."""
