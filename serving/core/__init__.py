"""The server without protocols and frameworks: servables, repository, batching, service."""
