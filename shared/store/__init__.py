"""The database: sessions, the outbox of their public events, and leases. SQLite or Postgres, chosen by URL.

`rows` has what deciding files may see; `engine` connects; `sessions`, `outbox` and `leases` are a few
functions each that take a transaction, so that a caller says what is saved together.
"""
