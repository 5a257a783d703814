"""The JSON of our own routes, as the OpenAPI description shows it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

ItemId = Annotated[StrictStr, Field(max_length=1024)]
Tag = Annotated[StrictStr, Field(max_length=1024)]


class RecommendRequest(BaseModel):
    """The body of ``POST /recommend``."""

    model_config = ConfigDict(extra="forbid")

    history: list[ItemId] = Field(description="item ids, oldest first; unknown ones are skipped and counted")
    k: StrictInt = Field(10, ge=1, description="items wanted")
    exclude: list[ItemId] = Field([], description="item ids that must not come")
    exclude_seen: StrictBool = Field(False, description="leave out the items of the history too")
    allow: list[ItemId] | None = Field(None, description="the only item ids that may come; null: all")
    allow_tags: list[Tag] | None = Field(
        None,
        description="tags, 'column=value', of the items that may come: of each column that is named, an item needs one "
        "of the tags; a tag that no item has allows nothing; null: no tag is needed",
    )
    deny_tags: list[Tag] = Field([], description="tags of items that must not come; one of them is enough")
    explain: StrictBool = Field(False, description="say which items of the history each recommendation is due to")


class Reason(BaseModel):
    """An item of the history that spoke for a recommendation."""

    item_id: str
    title: str | None = None
    gain: float = Field(description="what the score would lose without it")


class RecommendedItem(BaseModel):
    """One recommendation."""

    item_id: str
    score: float = Field(description="natural logarithm of its probability, or what the bundle's generator ranks by")
    title: str | None = None
    because: list[Reason] | None = Field(default=None, description="only when asked to explain; most important first")


class RecommendResponse(BaseModel):
    """The answer of ``POST /recommend``, from one version of the bundle."""

    items: list[RecommendedItem] = Field(description="best first; fewer than k where the constraints leave fewer")
    model_version: str
    catalogue_version: str
    num_unknown: int = Field(description="ids of the request that the catalogue does not have; they are ignored")
    num_unknown_tags: int = Field(description="tags of the request that no item of the catalogue has")
    is_popular: bool = Field(description="no item of the history is known: the most popular items, scores are counts")


class TitledItem(BaseModel):
    """An item as the search of titles finds it."""

    item_id: str
    title: str | None = None


class TitlesResponse(BaseModel):
    """The answer of ``GET /titles``."""

    items: list[TitledItem]


class CountedTag(BaseModel):
    """A tag that items have."""

    tag: str = Field(description="column=value")
    num_items: int


class TagsResponse(BaseModel):
    """The answer of ``GET /tags``."""

    tags: list[CountedTag] = Field(description="those of most items first; none where the bundle has no tags")


class ErrorResponse(BaseModel):
    """Every refusal and failure."""

    error: str = Field(description="one line: what is wrong, what was expected")
