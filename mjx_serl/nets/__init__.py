"""Networks: encoders of images, multilayer perceptrons, ensembles, distributions."""
