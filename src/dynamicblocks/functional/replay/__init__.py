"""Solves whose backward pass takes their actions again, one by one."""

from dynamicblocks.functional.replay.actions import Around, Course, Keeper
from dynamicblocks.functional.replay.courses import GridCourse, course_of
from dynamicblocks.functional.replay.replayed import replayed
from dynamicblocks.functional.replay.surroundings import Random

__all__ = ["Around", "Course", "GridCourse", "Keeper", "Random", "course_of", "replayed"]
