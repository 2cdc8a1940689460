"""The line between the owner and its readers: frames, and the link that sends them. Knows neither store nor arena."""
