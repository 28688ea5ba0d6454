"""What the services say to each other: one struct per subject, all subjects in `subjects.py`.

Rules of the wire: a new field has a default; a new message is a new subject; a phase or kind readers may not
know is an open string, never an enum. `tests/contract/golden/` holds the bytes of every message, so a change
of the wire is a diff that somebody reads. Times are seconds since the epoch (`_at`), durations seconds
(`_s`), sizes bytes.
"""
