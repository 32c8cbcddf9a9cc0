"""Synthetic load and KPI traces of a cell: what prb-forecast and kpi-anomaly were trained on. No real network is in them."""

import numpy as np

BINS_A_DAY = 288  # 5 minutes each


def cell(days, seed):
    """PRB load (0 to 1), connected users (hundreds), hour and weekday of a cell with its own daily profile."""
    random = np.random.default_rng(seed)
    count = days * BINS_A_DAY
    time = np.arange(count)
    hour = (time % BINS_A_DAY) / 12.0
    weekday = (time // BINS_A_DAY) % 7
    height, _ = random.uniform(0.35, 0.7), random.uniform(0.1, 0.35)
    noon = height * np.exp(-(((hour - random.uniform(11, 14)) / random.uniform(3, 4.5)) ** 2))
    evening = height * 0.9 * np.exp(-(((hour - random.uniform(18.5, 21)) / random.uniform(1.8, 3)) ** 2))
    profile = (noon + evening + 0.04) * np.where(weekday >= 5, random.uniform(0.6, 1.1), 1)
    drift = np.zeros(count)
    shocks = random.normal(0, 0.03, count)
    for at in range(1, count):
        drift[at] = 0.92 * drift[at - 1] + shocks[at]
    burst = np.zeros(count)
    for start in np.where(random.random(count) < 0.004)[0]:
        burst[start : start + random.integers(2, 10)] += random.uniform(0.1, 0.5)
    prb = np.clip(profile + drift * np.sqrt(profile + 0.05) * 1.5 + burst, 0.005, 1)
    users = np.clip(prb * 80 * (1 + random.normal(0, 0.1, count)) + random.poisson(2, count), 0, None) / 100
    return prb.astype(np.float32), users.astype(np.float32), hour, weekday


def cell_features(days, seed):
    """What prb-forecast sees, [5, bins]: PRB load, users, sine and cosine of the hour, weekend."""
    prb, users, hour, weekday = cell(days, seed)
    angle = hour / 24 * 2 * np.pi
    return np.stack([prb, users, np.sin(angle), np.cos(angle), (weekday >= 5).astype(float)]).astype(np.float32)


def kpi_table(seed, rows=4000):
    """What kpi-anomaly sees, [rows, 16]; the columns are named in its model.toml."""
    prb, users, hour, _ = cell(14, seed)
    prb, users, hour = prb[:rows], users[:rows], hour[:rows]
    random = np.random.default_rng(seed)

    def noise(sd):
        return random.normal(0, sd, rows)

    mcs = np.clip(18 - 8 * prb + noise(1), 0, 28) / 28
    bler = np.clip(0.08 + 0.05 * prb + noise(0.01), 0, 1)
    throughput = prb * mcs + noise(0.01)
    latency = 0.05 / (1.05 - prb) + noise(0.01)
    rsrp = 0.6 + noise(0.03)
    sinr = mcs * 0.9 + noise(0.03)
    handovers = np.clip(users * 0.1 + noise(0.01), 0, 1)
    connections = np.clip(users * 1.1 + noise(0.02), 0, None)
    cpu = 0.2 + 0.6 * prb + noise(0.02)
    temperature = 0.4 + 0.3 * cpu + noise(0.02)
    power = 0.3 + 0.6 * prb + noise(0.02)
    fronthaul = throughput * 1.1 + noise(0.01)
    angle = hour / 24 * 6.2832
    columns = [prb, users, mcs, bler, throughput, latency, rsrp, sinr, handovers, connections]
    columns += [cpu, temperature, power, fronthaul, np.sin(angle), np.cos(angle)]
    return np.stack(columns, 1).astype(np.float32)
