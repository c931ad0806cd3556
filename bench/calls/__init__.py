"""Real calls over bad networks."""
