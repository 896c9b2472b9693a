"""Codecs between wire formats and `serving.messages`: no sockets, no server, used by both sides."""
