//! Blocking file I/O behind one narrow door: devices, the clock, the journal ring, images, the overlay.
//!
//! Never here: async, sockets, threads of its own. Whoever calls decides on which thread a step runs, which
//! is also how the simulator drives the same code.
