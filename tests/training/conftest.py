import pytest
from cohorts import write_tiny_cohort


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """`mrtutor.data.cohort.Cohort` of 20 made-up patients."""
    return write_tiny_cohort(tmp_path_factory.mktemp("cohort"))
