//! The router is started anew, perhaps with another number of workers: the flows go on.

use spillway_engine::{Engine, SavedFlow};

use super::*;

impl World {
    /// Engines with other keys take the flows up. The clock, and whoever talks, notice nothing.
    pub(super) fn restart(&mut self) {
        let saved: Vec<SavedFlow> = self.cluster.engines.iter().flat_map(Engine::saved).collect();
        self.check_sums();
        self.check_events();
        let workers = self.random.pick(&[1, 2, 3, 4_u8]);
        let mut number = || u64::try_from(self.random.below(usize::MAX)).unwrap();
        let (seed, hash_key) = (number(), std::array::from_fn(|_| number()));
        let flows_max = self.flows_max;
        let (input, now) = (self.cluster.input.clone(), self.cluster.now);
        self.cluster = Cluster::new(
            workers,
            EngineConfig { seed, hash_key, ..config_for(flows_max, self.block) },
            input,
        );
        self.cluster.now = now;
        for flow in saved {
            let home = self.cluster.worker(flow.egress_port);
            let first = self.cluster.worker(flow.original.source_port);
            let fits = self.live(home, flow.egress) < u64::from(flows_max);
            let restored = self.cluster.engines[home].restore(now, &flow);
            assert_eq!(restored.is_ok(), fits, "{flow:?}: {restored:?}");
            self.totals.restored += u64::from(fits);
            let reply = Flow::new(flow.original, flow.egress, flow.egress_port, flow.peer).reply();
            self.told_of_restart(&reply, fits.then_some(home));
            if !fits {
                self.forget(&reply);
            } else if first != home {
                let home = u8::try_from(home).unwrap();
                let engine = &mut self.cluster.engines[first];
                engine.redirect(now, &flow.original, home).unwrap();
            }
        }
        self.told_of_blocks();
        self.carried_before();
    }
}
