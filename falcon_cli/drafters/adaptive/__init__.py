"""A drafter that chooses in each cycle what to draft, by what cycles of late gave and took."""
