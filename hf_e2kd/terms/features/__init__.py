"""Terms that compare features, one file a method."""
