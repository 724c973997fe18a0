"""Kinds of averages as Hypothesis draws them."""

from hypothesis import strategies as st

from polyak import EMA, PowerEMA, Uniform

kinds = st.one_of(
    st.builds(EMA, st.floats(0.0, 0.99999), warmup=st.sampled_from(["paper", None])),
    st.builds(EMA, st.floats(0.0, 0.99999), warmup_counts=st.sampled_from(["updates", "steps"])),
    st.builds(PowerEMA, gamma=st.floats(0.05, 60.0)),
    st.builds(Uniform, start=st.integers(0, 40)),
)

late = st.builds(EMA, st.floats(0.0, 0.99999), start=st.integers(1, 40))
"""EMAs that begin late, whose weights need the count of updates since."""
