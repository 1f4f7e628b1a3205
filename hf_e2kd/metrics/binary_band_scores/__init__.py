"""Binary band scores: maps as detectors of the object, and of the part that tells its class."""
