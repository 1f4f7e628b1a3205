"""F1 and mAP: how well several classes an image are told apart."""
