"""Five-band scores: maps cut into five bands, compared pixel by pixel with a ground truth of three regions."""
