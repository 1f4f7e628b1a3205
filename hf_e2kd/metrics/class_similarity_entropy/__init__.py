"""Class-similarity entropy: how much a model's outputs say of the classes that are like the true one."""
