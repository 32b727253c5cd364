"""What simulator, trainer and bridge agree on: specs, the policy contract, files. Numpy alone."""
