from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.grading import Vote, cluster, load_grader, vote

ANSWERS = st.lists(st.none() | st.sampled_from(["3", "4", "5", "3.0", "4.00"]), max_size=9)
EQUAL = load_grader("gsm8k").equal


def test_clusters_go_by_equality_not_by_string():
    assert cluster(["3.00", None, "7", "3", "$7"], EQUAL) == (0, None, 2, 0, 2)


def test_clusters_compare_with_the_first_member_only():
    def near(a: str, b: str) -> bool:
        return abs(int(a) - int(b)) <= 1

    assert cluster(["1", "2", "3"], near) == (0, 0, 2)
    assert cluster(["2", "1", "3"], near) == (0, 0, 0)


def test_plurality_wins_in_the_form_listed_first():
    assert vote(["7", "3.00", "3", None], EQUAL) == Vote(
        answer="3.00", share=0.5, winner=1, clusters=(0, 1, 1, None)
    )


def test_a_tie_goes_to_the_member_listed_first():
    assert vote(["5", "3", "3", "5"], EQUAL).answer == "5"
    assert vote([None, "3", "5"], EQUAL).winner == 1


def test_nobody_answered():
    assert vote([None, None], EQUAL) == Vote(None, 0.0, None, (None, None))
    assert vote([], EQUAL) == Vote(None, 0.0, None, ())


@given(ANSWERS)
def test_vote_is_the_largest_and_earliest_cluster(answers):
    outcome = vote(answers, EQUAL)
    sizes = {g: outcome.clusters.count(g) for g in outcome.clusters if g is not None}
    if not sizes:
        assert outcome.winner is None
        return
    assert outcome.winner is not None
    assert outcome.answer == answers[outcome.winner]
    assert outcome.share == sizes[outcome.winner] / len(answers)
    for group, size in sizes.items():
        assert size <= sizes[outcome.winner]
        if size == sizes[outcome.winner]:
            assert outcome.winner <= group
    for index, group in enumerate(outcome.clusters):
        assert (group is None) == (answers[index] is None)
        assert group is None or group <= index
