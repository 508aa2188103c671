"""A network that says where a transmitter is and how sure it is."""
