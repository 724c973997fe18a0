"""All claims that a page judges, in the order of the paper."""

from polyak.analysis.claims import cost, dynamics, normalisation, one_change, tables
from polyak.analysis.claims.claim import Claim, in_each

SEARCH = "finished searches at the chosen learning rate"
BOTH_STATISTICS = (
    "runs with the monitor holdout_bn (search) or with test and test_bn (refit), of a network "
    "with BatchNorm"
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="never-behind",
        sentence="EMA is at least as accurate as SGD at every epoch.",
        source="section 3.2, figure 1a",
        test="The best average’s lead in the worst five epochs is above −0.2 points.",
        needs=SEARCH,
        preset="table1",
        hypotheses=in_each(dynamics.never_behind),
    ),
    Claim(
        id="early-lead",
        sentence="EMA leads at 5, 10 and 25 % of the budget.",
        source="section 3.3",
        test="The best average’s lead is above 0 at each of the three epochs.",
        needs=SEARCH,
        preset="table1",
        hypotheses=in_each(dynamics.early_lead),
    ),
    Claim(
        id="peak",
        sentence="EMA peaks before the end, declines, and meets SGD as the learning rate goes to "
        "0.",
        source="section 3.2, figure 1a",
        test="Accuracy at the peak, looked for in the other seeds, is above the end’s; at the last "
        "epoch best average and SGD are equal to within 0.5 points (two one-sided tests).",
        needs=f"{SEARCH}, at least two, with a learning rate that goes to 0",
        preset="table1",
        hypotheses=in_each(dynamics.peaks_then_meets_sgd),
    ),
    Claim(
        id="stops-early",
        sentence="EMA stops before three quarters of the budget, in the mean over seeds.",
        source="section 3.2",
        test="The mean stopping epoch is below 75 % of the budget, for both rules.",
        needs=SEARCH,
        preset="table1",
        hypotheses=in_each(dynamics.stops_early_on_average),
    ),
    Claim(
        id="stops-early-in-each",
        sentence="EMA always stops before three quarters of the budget: in every seed.",
        source="section 3.2",
        test="At least 95 % of all seeds stop below 75 % of the budget (noncentral t); one seed "
        "that does not refutes it.",
        needs=SEARCH,
        preset="table1",
        hypotheses=in_each(dynamics.stops_early_in_each),
    ),
    Claim(
        id="loss-first",
        sentence="The epoch of lowest loss comes before that of best accuracy.",
        source="section 4.2",
        test="The distance of the two epochs is above 0.",
        needs=SEARCH,
        preset="table1",
        hypotheses=in_each(dynamics.loss_first),
    ),
    Claim(
        id="longest-window",
        sentence="The largest window fails without BN recomputation, recovers with it, and "
        "benefits from its length.",
        source="section 3.4, figure 1b",
        test="Over the middle of the run: longest − shortest window below 0 with averaged "
        "statistics; recomputed − averaged above 0 for the longest; longest − shortest above 0 "
        "with recomputed ones.",
        needs=BOTH_STATISTICS,
        preset="figure1",
        hypotheses=in_each(normalisation.longest_window_needs_recomputation),
    ),
    Claim(
        id="recomputing-helps",
        sentence="Recomputing BN statistics always helps.",
        source="section 3.4",
        test="For every average the mean gain is above 0, and above −0.2 points in the worst five "
        "epochs.",
        needs=BOTH_STATISTICS,
        preset="figure1",
        hypotheses=in_each(normalisation.recomputing_always_helps),
    ),
    Claim(
        id="without-batchnorm",
        sentence="A net without BN is not hurt by a slow decay.",
        source="section 3.4",
        test="Longest − shortest window is above −0.5 points over the middle of the run.",
        needs="finished searches of a network without BatchNorm: VGG-16, whose stand-ins at "
        "smaller scales have it",
        preset="table1",
        scale="paper",
        hypotheses=in_each(normalisation.slow_decay_is_harmless_without_batchnorm),
    ),
    Claim(
        id="period",
        sentence="Updating every 16 steps is as good as updating at every step.",
        source="section 3.1, appendix D",
        test="Test accuracies are equal to within 0.5 points (two one-sided tests).",
        needs="a row, and the same with averages updated at every step",
        preset="app-d",
        hypotheses=one_change.period_makes_no_difference,
    ),
    Claim(
        id="cost-training",
        sentence="Five averages cost little, evaluation not counted.",
        source="section 3.1",
        test="They add less than 5 % to the time of training.",
        needs="timed repetitions with and without averages",
        preset="overhead",
        hypotheses=cost.training_costs_little,
    ),
    Claim(
        id="cost-evaluation",
        sentence="Five averages cost little, their evaluation each epoch counted.",
        source="section 3.1",
        test="They add less than 5 % to the time of training and evaluating.",
        needs="timed repetitions with and without averages",
        preset="overhead",
        hypotheses=cost.evaluating_costs_little,
    ),
    Claim(
        id="better-than-sgd",
        sentence="EMA beats SGD in test accuracy and in test loss, in every row.",
        source="section 4.2, table 1",
        test="EMA (acc.) + BN − SGD is above 0 in accuracy and below 0 in loss.",
        needs="finished refits",
        preset="table1",
        hypotheses=in_each(tables.better_than_sgd),
        rivals=in_each(tables.better_than_any_sgd),
    ),
    Claim(
        id="noise",
        sentence="Under label noise EMA beats SGD at its best epoch.",
        source="section 4.3, figure 2, table 2",
        test="EMA (acc.) + BN − SGD, stopped at its own best hold-out epoch, is above 0 in test "
        "accuracy.",
        needs="finished refits on wrong labels",
        preset="table2",
        hypotheses=in_each(tables.better_than_stopped_sgd_under_noise),
        rivals=in_each(tables.better_than_any_sgd_under_noise),
    ),
    Claim(
        id="fits-noise",
        sentence="SGD fits all noisy labels in the end.",
        source="section 4.3",
        test="The share of wrong labels learnt is above 99 %.",
        needs="finished refits on wrong labels",
        preset="table2",
        hypotheses=in_each(tables.sgd_fits_wrong_labels),
    ),
    Claim(
        id="memorisation",
        sentence="Memorisation comes with the decay of the learning rate, not with time.",
        source="section 4.3, appendix E.2",
        test="The longest window learns more wrong labels with the learning rate falling than with "
        "it held, and under 5 points more while it is held.",
        needs="searches on wrong labels with the monitor train_wrong, and the same with their "
        "learning rate held",
        preset="app-e2",
        hypotheses=in_each(one_change.memorising_comes_with_decay),
    ),
    Claim(
        id="churn",
        sentence="Churn and Jensen-Shannon divergence fall.",
        source="section 4.4, table 3",
        test="EMA (loss) + BN − SGD is below 0 in both (jackknife over runs).",
        needs="finished refits of at least three seeds",
        preset="table3",
        hypotheses=in_each(tables.disagrees_less),
        rivals=in_each(tables.disagrees_less_than_any_sgd),
    ),
    Claim(
        id="loss-beats-accuracy",
        sentence="EMA (loss) beats EMA (acc.) in churn, transfer and calibration.",
        source="section 4.2",
        test="EMA (loss) + BN − EMA (acc.) + BN is below 0 in churn and ECE, above 0 in the "
        "accuracy of every linear probe.",
        needs="finished refits of at least three seeds, linear probes of them, and searches",
        preset="table4",
        hypotheses=in_each(tables.loss_beats_accuracy),
    ),
    Claim(
        id="calibration",
        sentence="The calibration error falls, with and without a temperature.",
        source="section 4.5, table 5",
        test="EMA (loss) + BN − SGD at its best hold-out epoch is below 0 in ECE, before and after "
        "one temperature is fitted on the hold-out.",
        needs=SEARCH,
        preset="table5",
        hypotheses=in_each(tables.better_calibrated),
        rivals=in_each(tables.better_calibrated_than_any_sgd),
    ),
    Claim(
        id="bootstrap",
        sentence="Bootstrapping SGD with its average does not help.",
        source="section 3.3, appendix C",
        test="SGD’s test accuracy with it − without is below 0.2 points.",
        needs="a row, and the same bootstrapped",
        preset="app-c",
        hypotheses=one_change.bootstrapping_does_not_help,
    ),
    Claim(
        id="step-decay",
        sentence="Step decay takes the gain away.",
        source="appendix A",
        test="At the last epoch best average and SGD are equal to within 0.5 points (two one-sided "
        "tests).",
        needs="finished searches with schedule step",
        preset="app-a",
        hypotheses=one_change.step_decay_takes_the_gain,
    ),
    Claim(
        id="annealed",
        sentence="EMA at its stopping epoch beats SGD annealed in the same budget.",
        source="ours, not the paper’s",
        test="EMA (acc.) + BN − SGD whose schedule ends at that epoch is above 0 in test accuracy.",
        needs="finished refits, or searches where nothing is refitted, and SGD annealed by their "
        "stopping epochs",
        preset="table1 --controls",
        hypotheses=in_each(one_change.beats_annealed_sgd),
        rivals=in_each(one_change.beats_annealed_sgd_recomputed),
    ),
)
