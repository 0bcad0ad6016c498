"""Everything that drafts: Falcon, its rivals, what they share, and drafters as folders."""
