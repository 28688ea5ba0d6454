"""What operators set for a cell's fleet, kept over restarts of the autoscaler."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.contracts.fleet import SetFleet
from shared.store.tables import fleet_controls


async def read(transaction: AsyncConnection, cell: str) -> SetFleet:
    """What is set; None: nobody ever set it."""
    fields = [fleet_controls.c[name] for name in SetFleet.__struct_fields__]
    asking = sa.select(*fields).where(fleet_controls.c.cell == cell)
    row = (await transaction.execute(asking)).first()
    return SetFleet() if row is None else SetFleet(*row)


async def write(transaction: AsyncConnection, cell: str, asked: SetFleet) -> None:
    """Add to what is set; None: leave it. Only a cell's leader may, so that nobody else adds the row
    meanwhile.
    """
    kept = await read(transaction, cell)
    given = {name: value for name, value in msgspec.structs.asdict(asked).items() if value is not None}
    await transaction.execute(sa.delete(fleet_controls).where(fleet_controls.c.cell == cell))
    row = {"cell": cell} | msgspec.structs.asdict(kept) | given
    await transaction.execute(sa.insert(fleet_controls).values(row))
