"""One file a network; each exports to the signature of `receiver.generator.Generator`."""
