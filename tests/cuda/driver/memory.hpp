// The device's memory.
#pragma once
#include <cstddef>
#include <string>

namespace memory {

// Bytes of the device in all.
constexpr size_t TOTAL = size_t{6} << 30;

// Filled with bytes that are NaN as a number of any width; nothing where there is not enough.
void* allocate(size_t bytes);

// Ends the program where this is not an allocation, or was written beyond its ends.
void release(void* start);

// Before the work that uses what was freed is done, others must not get the memory: it counts as free from here on.
void release_later(void* start);

// Ends the program unless these bytes belong to one allocation.
void expect(const void* start, size_t bytes, const std::string& what);

size_t used();
size_t& most_used();

} // namespace memory
