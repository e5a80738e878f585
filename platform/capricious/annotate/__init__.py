"""Models that look at a picture: detection, landmarks, parsing, attributes, and the Annotator that chains them."""
