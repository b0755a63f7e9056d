//! Runs workloads: components that are linked to each other, over host interfaces.
