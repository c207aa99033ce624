"""What the sampled data are to be like: named by a user, opened for one embedding table."""
