import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function StatePage() {
  return (
    <Page title="State">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
