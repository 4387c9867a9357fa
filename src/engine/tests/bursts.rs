//! What the pace lets in: bursts after light load, slow devices, and what was measured long ago.

use super::world::{Machine, Request, Seen, World, milliseconds, shared};
use super::*;

/// Two decode threads.
fn two_threads(max_batch_size: usize) -> EngineSettings {
    EngineSettings { decode_threads: 2, ..settings(max_batch_size, 256) }
}

/// Photos come one by one, each alone in the engine; then 64 in one request, a moment after one of them.
fn light_load_and_a_burst(world: &mut World, lone: u32, patience: Duration) -> Seen {
    let interval = milliseconds(500);
    let mut requests = world.stream(interval, interval * lone, Duration::from_secs(30));
    let last = requests.last().expect("at least one").at;
    requests.push(Request { at: last + milliseconds(1), photos: 64, patience });
    let seen = world.play(requests);
    assert_eq!(seen.late, 0);
    seen
}

#[test]
fn light_load_says_little_of_a_queue_so_a_burst_that_can_be_met_is_admitted() {
    let shared = shared(two_threads(8));
    let machine = Machine { decode: milliseconds(4), ..Machine::new(0, 4) };
    let mut world = World::new(&shared, machine);
    let seen = light_load_and_a_burst(&mut world, 20, milliseconds(500));
    assert_eq!((seen.refused, seen.latencies.len()), (0, 84));
    assert!(seen.slowest() < milliseconds(300), "{:?}", seen.slowest());
}

#[test]
fn a_burst_that_a_slow_device_cannot_meet_is_refused_after_light_load() {
    let shared = shared(two_threads(8));
    let machine = Machine { decode: milliseconds(4), ..Machine::new(0, 12) };
    let mut world = World::new(&shared, machine);
    let seen = light_load_and_a_burst(&mut world, 20, milliseconds(500));
    assert_eq!((seen.refused, seen.latencies.len()), (64, 20));
    let seen = light_load_and_a_burst(&mut world, 20, milliseconds(1000));
    assert_eq!(seen.refused, 0);
}

#[test]
fn where_a_large_batch_takes_hardly_longer_than_one_photo_a_burst_is_judged_by_large_batches() {
    let shared = shared(two_threads(32));
    let machine = Machine { decode: milliseconds(4), warmup: Warmup::Buckets, ..Machine::new(20, 0) };
    let mut world = World::new(&shared, machine);
    let seen = light_load_and_a_burst(&mut world, 20, milliseconds(300));
    assert_eq!(seen.refused, 0);
    assert!(seen.slowest() < milliseconds(200), "{:?}", seen.slowest());
}

#[test]
fn lone_photos_that_are_held_back_do_not_make_the_pace_slow() {
    let shared = shared(EngineSettings { max_queue_delay: milliseconds(400), ..two_threads(8) });
    let mut world = World::new(&shared, Machine::new(0, 10));
    let seen = light_load_and_a_burst(&mut world, 20, Duration::from_secs(1));
    assert_eq!(seen.refused, 0);
}

#[test]
fn a_device_that_turned_slow_in_light_load_is_not_believed_to_be_fast() {
    let shared = shared(two_threads(8));
    let machine = Machine { warmup: Warmup::Buckets, ..Machine::new(20, 0) };
    let mut world = World::new(&shared, machine);
    assert_eq!(light_load_and_a_burst(&mut world, 10, milliseconds(500)).refused, 0);
    // Eight batches of 8 take 1.6 s now.
    world.becomes(Machine::new(200, 0));
    assert_eq!(light_load_and_a_burst(&mut world, 40, milliseconds(1500)).refused, 64);
    assert_eq!(light_load_and_a_burst(&mut world, 40, milliseconds(2500)).refused, 0);
}

#[test]
fn a_slow_pace_of_long_ago_is_corrected_by_lone_photos() {
    let shared = shared(two_threads(8));
    let mut world = World::new(&shared, Machine::new(0, 100));
    world.run(milliseconds(50), Duration::from_secs(20), Duration::from_secs(10));
    assert!(world.pace(10) > milliseconds(900));
    world.becomes(Machine::new(0, 4));
    let seen = light_load_and_a_burst(&mut world, 1, milliseconds(500));
    assert_eq!(seen.refused, 64, "one photo is not enough");
    let seen = light_load_and_a_burst(&mut world, 1000, milliseconds(500));
    assert_eq!(seen.refused, 0);
}

#[test]
fn a_slow_pace_of_long_ago_is_corrected_even_where_the_engine_is_never_empty() {
    let shared = shared(two_threads(8));
    let mut world = World::new(&shared, Machine::new(0, 100));
    world.run(milliseconds(50), Duration::from_secs(20), Duration::from_secs(10));
    // Three are in the engine at any moment, two of them being decoded; patient clients are let in.
    let machine = Machine { decode: milliseconds(20), ..Machine::new(0, 9) };
    world.becomes(machine);
    let mut requests = world.stream(milliseconds(11), Duration::from_secs(30), Duration::from_secs(30));
    let last = requests.last().expect("at least one").at;
    requests.push(Request { at: last + milliseconds(1), photos: 16, patience: milliseconds(500) });
    let seen = world.play(requests);
    assert_eq!((seen.refused, seen.late), (0, 0));
}

#[test]
fn where_decoding_sets_the_pace_overload_is_refused_and_whoever_is_admitted_is_in_time() {
    let shared = shared(two_threads(8));
    // 100 photos a second are decoded; 300 come. The device alone could do 1000.
    let machine = Machine { decode: milliseconds(20), ..Machine::new(0, 1) };
    let mut world = World::new(&shared, machine);
    let seen = world.run(milliseconds(3), Duration::from_secs(60), Duration::from_secs(1));
    let answered = seen.latencies.len() as f64;
    assert!(answered >= 0.97 * 6000.0, "{answered}");
    assert!(seen.late as f64 <= 0.03 * answered, "{} of {answered}", seen.late);
    let pace = world.pace(100);
    assert!(pace.abs_diff(milliseconds(1000)) < milliseconds(50), "{pace:?}");
}

#[test]
fn requests_of_many_photos_at_three_times_capacity_keep_their_deadlines_too() {
    let shared = shared(two_threads(8));
    // Batches of 8 take 85 ms: 94 photos a second; about 280 come, in requests of 1, 4, 7, 10 … 13.
    let machine = Machine { decode: milliseconds(4), ..Machine::new(5, 10) };
    let mut world = World::new(&shared, machine);
    let patience = Duration::from_secs(1);
    let mut requests = world.stream(milliseconds(25), Duration::from_secs(60), patience);
    for (number, request) in requests.iter_mut().enumerate() {
        request.photos = 1 + number * 3 % 15;
    }
    let seen = world.play(requests);
    let (answered, capacity) = (seen.latencies.len() as f64, 60.0 * 8.0 / 0.085);
    assert!(answered >= 0.97 * capacity, "{answered} of {capacity}");
    assert!(seen.late as f64 <= 0.001 * answered, "{} of {answered}", seen.late);
}
