"""What a reader sees and touches: the studio and what it composes masks with."""
