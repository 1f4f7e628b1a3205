"""Word attribution: whether a word's score says if its polarity agrees with the sentence's."""
