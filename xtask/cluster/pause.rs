//! Holds a pod's namespaces open, and does nothing else. The runtime ends it by a signal that no program can refuse.

fn main() -> ! {
    loop {
        std::thread::park();
    }
}
