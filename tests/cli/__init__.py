"""The commands, as a user meets them: what they print, their exit codes, and that nothing is left half-done."""
