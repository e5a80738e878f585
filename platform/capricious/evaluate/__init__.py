"""What came out, in numbers and pictures for people: reports on prepared datasets and on bundles."""
