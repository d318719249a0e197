"""The API's part about migrations: which there are, and one of them with all that QEMU said."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from . import models
from .api import services
from .errors import ApiError
from .migrations import shown
from .migrations.models import Migration, MigrationList

MAX_ID = 288
"""The VM's id and a moment."""

router = APIRouter(prefix="/api/v1", tags=["migrations"], responses=models.answers(413, 422, 500))


@router.get("/migrations")
async def migrations(request: Request) -> MigrationList:
    """Migrations and other pagings-in of memory that go on or were seen, newest first, at most 64; without samples."""
    listed = shown.listed(services(request).aggregate.migrations)
    return MigrationList.model_validate({"migrations": listed})


@router.get("/migrations/{id}", responses=models.answers(404))
async def migration(
    request: Request, id: Annotated[str, Path(max_length=MAX_ID, description="Id of a migration.")]
) -> Migration:
    """One migration, with the samples of what QEMU said."""
    found = shown.found(services(request).aggregate.migrations, id)
    if found is None:
        raise ApiError(404, "unknown_migration", f"no migration {id[:80]!r}", "See GET /api/v1/migrations.", "id")
    return Migration.model_validate(found)
