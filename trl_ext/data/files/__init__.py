"""Open data files: endings and compression, text encoding, separators of tables, JSON documents that wrap their rows.

Files: ``names`` tells the kind and the compression of a file from its name, ``compression`` opens it and recognises
damage, ``encoding`` and ``json_syntax`` describe the first mistake in its text, ``tables`` and ``wrapped_json`` find the
rows inside it, ``first_rows`` reads some of them, ``problems`` explains why a file cannot be read. Nothing here imports
more than the standard library, so recipes are validated in an instant.
"""
